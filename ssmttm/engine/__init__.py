"""From a request to sound: sampling, slots, windows of stage 2, continuation."""
