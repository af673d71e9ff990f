"""Features of frames: screened, encoded, kept as shards that a killed job finds again."""
