"""Disposable databases, and what fills them."""
