"""From frames to a moving parametric head: landmarks, mattes, the fit, photometric refinement."""
