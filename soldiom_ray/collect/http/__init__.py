"""The HTTP layer of all sources: GitHub, the Hugging Face Hub and the endpoints that users name.

`response` sends a request, reads its body within a time and a size, and follows redirects; `errors` has the errors, the
backoff and the reader of Retry-After; `guarded` is for addresses that users name: it connects to checked addresses
only. The client is httpx2, which huggingface_hub brings and which imports in a third of httpx's time. What a status
means, and when a request may go, is decided by the sources.
"""
