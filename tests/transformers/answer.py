"""In the environment of requirements-torch.txt: loads a folder with transformers and writes what it computes. FOLDER IDS.npy OUT.npz"""

import sys

import numpy as np
import torch
import transformers

folder, ids, out = sys.argv[1:]
model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
tokens = torch.from_numpy(np.load(ids).astype(np.int64))
with torch.no_grad():
    logits = model(tokens).logits.numpy()
    written = model.generate(tokens, max_new_tokens=8, do_sample=False, pad_token_id=0).numpy()
np.savez(out, logits=logits, written=written, kind=type(model).__name__)
