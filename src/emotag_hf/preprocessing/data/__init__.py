"""The processed clip: a folder with the results of tracking and teachers for a video; and how it is made."""
