"""What moves the head besides the network: emotion, generated head motion, driving clips."""
