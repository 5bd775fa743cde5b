"""What a run will take, before anything is sent: its questions, those that are answered already, money and time."""
