"""How people and programs reach the detector."""
