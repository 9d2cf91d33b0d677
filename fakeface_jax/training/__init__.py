"""One linear story: config -> state -> jitted step -> loop with checkpoints -> bundle."""
