"""An avatar on disk, and on its way to the Hub."""
