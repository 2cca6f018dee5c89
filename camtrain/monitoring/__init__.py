"""What a pass over held-out images shows: explained, judged, selected, drawn. No Trainer in here."""
