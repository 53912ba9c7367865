"""How is a model asked that stands behind a URL? One transport for evaluation and for judges.

May import `data`, for images as any decoder shows them. A new member is a way to ask a server that
is not ours.
"""
