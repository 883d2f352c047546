"""One Redis subscription per process, shared by every client that waits or follows a stream."""
