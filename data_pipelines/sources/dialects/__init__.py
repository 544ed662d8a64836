"""Row dialects: the layouts in which published data sets store a conversation, a question, a caption, a page or a text.

Each dialect has a function that reads a row, and a list of the keys that it knows; `row.py` recognises the dialect of a row.
"""
