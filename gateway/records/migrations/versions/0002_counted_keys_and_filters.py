"""Keys that count toward others; stored completions filtered by index"""

from alembic import op
import sqlalchemy as sa


revision = '0002'
down_revision = '0001'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('counted_keys',
    sa.Column('owner', sa.String(length=160), nullable=False),
    sa.Column('key_id', sa.String(length=64), nullable=False),
    sa.PrimaryKeyConstraint('owner', 'key_id', name=op.f('pk_counted_keys'))
    )
    op.add_column('keys', sa.Column('counts_toward', sa.Text(), nullable=True))

    op.create_index('ix_stored_completions_model', 'stored_completions', ['owner', 'model', 'created', 'seq'], unique=False)
    op.add_column('stored_metadata', sa.Column('created', sa.BigInteger(), server_default='0', nullable=False))
    op.execute('UPDATE stored_metadata SET created = '
               '(SELECT c.created FROM stored_completions c WHERE c.seq = stored_metadata.seq)')
    op.drop_index('ix_stored_metadata_digest', table_name='stored_metadata')
    op.create_index('ix_stored_metadata_digest', 'stored_metadata', ['digest', 'created', 'seq'], unique=False)


def downgrade() -> None:
    op.drop_index('ix_stored_metadata_digest', table_name='stored_metadata')
    op.create_index('ix_stored_metadata_digest', 'stored_metadata', ['digest', 'seq'], unique=False)
    op.drop_column('stored_metadata', 'created')
    op.drop_index('ix_stored_completions_model', table_name='stored_completions')
    op.drop_column('keys', 'counts_toward')
    op.drop_table('counted_keys')
