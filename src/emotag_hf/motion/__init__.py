"""Motion that does not come from the network: emotion controls, generated head motion, driving clips."""
