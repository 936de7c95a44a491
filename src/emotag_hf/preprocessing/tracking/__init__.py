"""Head tracking: landmarks, mattes, the fit of the parametric head to every frame, photometric refinement."""
