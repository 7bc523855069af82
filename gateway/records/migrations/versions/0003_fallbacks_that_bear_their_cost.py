"""Rows and daily sums tell the fallback that bears them; older ones are borne by the model asked for"""

from alembic import op
import sqlalchemy as sa


revision = '0003'
down_revision = '0002'
branch_labels = None
depends_on = None

DIMENSIONS = ['day', 'organization', 'team', 'user', 'key', 'tags', 'model', 'deployment', 'provider', 'tier_served']
SUMS = ['requests', 'attempts', 'errors', 'estimates', 'cost', 'duration', 'input', 'cache_read', 'cache_write',
        'cache_write_1h', 'audio_input', 'output', 'reasoning', 'audio_output']


def upgrade() -> None:
    op.add_column('ledger', sa.Column('fallback', sa.Text(), nullable=True))
    # SQLite makes the table anew: it cannot change a constraint.
    with op.batch_alter_table('ledger_daily') as daily:
        daily.add_column(sa.Column('fallback', sa.Text(), server_default='', nullable=False))
        daily.drop_constraint('uq_ledger_daily_dimensions', type_='unique')
        daily.create_unique_constraint('uq_ledger_daily_dimensions', [*DIMENSIONS, 'fallback'])


def downgrade() -> None:
    # Sums that differ in nothing else become one.
    same = ', '.join(f'"{name}"' for name in DIMENSIONS)
    sums = ', '.join(f'sum({name}) AS {name}' for name in SUMS)
    op.execute(f'CREATE TABLE ledger_folded AS SELECT {same}, {sums} FROM ledger_daily GROUP BY {same}')
    op.execute('DELETE FROM ledger_daily')
    with op.batch_alter_table('ledger_daily') as daily:
        daily.drop_constraint('uq_ledger_daily_dimensions', type_='unique')
        daily.drop_column('fallback')
        daily.create_unique_constraint('uq_ledger_daily_dimensions', DIMENSIONS)
    names = f'{same}, {", ".join(SUMS)}'
    op.execute(f'INSERT INTO ledger_daily ({names}) SELECT {names} FROM ledger_folded')
    op.drop_table('ledger_folded')
    op.drop_column('ledger', 'fallback')
