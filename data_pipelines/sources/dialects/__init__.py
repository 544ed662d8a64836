"""Row dialects: the ways in which published data sets write down a conversation, a caption, a page or a text.

Each dialect is a file with a function that reads a row and a list of the keys that it knows; `row.py` says which one a row is in.
"""
