"""Why a head answers as it does: what each word adds in each layer."""
