"""What is measured of a run: distances, dynamics, retention, replay."""
