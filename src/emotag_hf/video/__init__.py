"""Reading, writing and cropping videos."""
