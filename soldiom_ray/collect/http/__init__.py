"""HTTP for every source that asks a server: GitHub, the Hugging Face Hub and the endpoints that users name.

`response` sends a request and reads its body within a time and a size, and follows redirects; `errors` says what can go
wrong and whether another attempt may help; `guarded` is for addresses that users name: it connects to nothing but the
addresses that were checked. The client is httpx2, which huggingface_hub brings and which starts in a third of httpx's
time. What a status means, and who may ask when, is the sources' own.
"""
