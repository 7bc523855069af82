"""Keys that count toward others"""

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


def downgrade() -> None:
    op.drop_column('keys', 'counts_toward')
    op.drop_table('counted_keys')
