"""What an extraction will take, before it is paid."""
