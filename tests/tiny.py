"""The smallest model of the real class that can be trained."""

from relisten.models import nano

TINY = nano.NanoConfig(
    hidden_size=32,
    num_layers=2,
    num_heads=2,
    num_key_value_heads=1,
    intermediate_size=48,
    audio_width=32,
    audio_layers=1,
    audio_heads=2,
    audio_intermediate_size=32,
    num_mel_bins=32,
)
