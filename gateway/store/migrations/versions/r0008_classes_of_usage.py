"""More classes of usage: cache writes for an hour, audio and image tokens, searches, and the upstream's own price."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Add the columns to the attempts and to the sums of deleted ones; what is there used none of these."""
    for table in ("attempts", "sums"):
        for name in (
            "cache_write_1h_tokens",
            "audio_input_tokens",
            "cached_audio_tokens",
            "image_input_tokens",
            "cached_image_tokens",
            "audio_output_tokens",
            "image_output_tokens",
            "web_searches",
            "upstream_cost_nano_usd",
        ):
            op.add_column(table, sa.Column(name, sa.BigInteger, nullable=False, server_default="0"))
