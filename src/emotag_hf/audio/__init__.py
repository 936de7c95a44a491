"""Sound in: any recording to samples, samples to features, streams of both."""
