"""Where commands are started: one module for each target, with the text of what it submits and a function that submits it."""
