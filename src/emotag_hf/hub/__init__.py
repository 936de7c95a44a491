"""Repositories on the Hub: allowed contents, upload and download, model cards."""
