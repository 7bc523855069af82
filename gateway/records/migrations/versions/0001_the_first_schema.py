"""The first schema"""

from alembic import op
import sqlalchemy as sa


revision = '0001'
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('audit',
    sa.Column('seq', sa.BigInteger(), autoincrement=False, nullable=False),
    sa.Column('at', sa.BigInteger(), nullable=False),
    sa.Column('actor', sa.String(length=128), nullable=False),
    sa.Column('action', sa.String(length=64), nullable=False),
    sa.Column('target', sa.String(length=200), nullable=False),
    sa.Column('before', sa.Text(), nullable=True),
    sa.Column('after', sa.Text(), nullable=True),
    sa.Column('request_id', sa.String(length=128), nullable=True),
    sa.Column('result', sa.String(length=64), nullable=False),
    sa.Column('previous', sa.String(length=64), nullable=False),
    sa.Column('hash', sa.String(length=64), nullable=False),
    sa.PrimaryKeyConstraint('seq', name=op.f('pk_audit'))
    )
    op.create_index(op.f('ix_audit_target'), 'audit', ['target'], unique=False)

    op.create_table('audit_head',
    sa.Column('id', sa.Integer(), autoincrement=False, nullable=False),
    sa.Column('seq', sa.BigInteger(), nullable=False),
    sa.Column('hash', sa.String(length=64), nullable=False),
    sa.CheckConstraint('id = 1', name=op.f('ck_audit_head_single')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_audit_head'))
    )
    op.create_table('changes',
    sa.Column('seq', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), autoincrement=True, nullable=False),
    sa.Column('kind', sa.String(length=16), nullable=False),
    sa.Column('target', sa.String(length=128), nullable=False),
    sa.Column('at', sa.Double(), nullable=False),
    sa.PrimaryKeyConstraint('seq', name=op.f('pk_changes')),
    sqlite_autoincrement=True
    )
    op.create_index(op.f('ix_changes_at'), 'changes', ['at'], unique=False)

    op.create_table('keys',
    sa.Column('id', sa.String(length=64), nullable=False),
    sa.Column('name', sa.String(length=128), nullable=False),
    sa.Column('organization', sa.String(length=128), nullable=False),
    sa.Column('team', sa.String(length=128), nullable=True),
    sa.Column('user', sa.String(length=128), nullable=True),
    sa.Column('preview', sa.String(length=32), nullable=False),
    sa.Column('expires', sa.Double(), nullable=True),
    sa.Column('settings', sa.Text(), nullable=False),
    sa.Column('blocked', sa.Boolean(), nullable=False),
    sa.Column('created', sa.Double(), nullable=False),
    sa.Column('updated', sa.Double(), nullable=False),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_keys')),
    sa.UniqueConstraint('organization', 'name', name=op.f('uq_keys_organization_name'))
    )
    op.create_index(op.f('ix_keys_team'), 'keys', ['team'], unique=False)
    op.create_index(op.f('ix_keys_user'), 'keys', ['user'], unique=False)

    op.create_table('ledger',
    sa.Column('id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), autoincrement=True, nullable=False),
    sa.Column('request_id', sa.Text(), nullable=False),
    sa.Column('organization', sa.Text(), nullable=False),
    sa.Column('team', sa.Text(), nullable=False),
    sa.Column('user', sa.Text(), nullable=False),
    sa.Column('key', sa.Text(), nullable=False),
    sa.Column('tags', sa.Text(), nullable=False),
    sa.Column('model', sa.Text(), nullable=False),
    sa.Column('deployment', sa.Text(), nullable=False),
    sa.Column('provider', sa.Text(), nullable=False),
    sa.Column('upstream_model', sa.Text(), nullable=False),
    sa.Column('tier_requested', sa.Text(), nullable=False),
    sa.Column('tier_effective', sa.Text(), nullable=False),
    sa.Column('tier_sent', sa.Text(), nullable=False),
    sa.Column('tier_served', sa.Text(), nullable=False),
    sa.Column('status', sa.Text(), nullable=False),
    sa.Column('error', sa.Text(), nullable=False),
    sa.Column('code', sa.Text(), nullable=False),
    sa.Column('attempt', sa.BigInteger(), nullable=False),
    sa.Column('day', sa.BigInteger(), nullable=False),
    sa.Column('started', sa.BigInteger(), nullable=False),
    sa.Column('duration', sa.BigInteger(), nullable=False),
    sa.Column('http_status', sa.BigInteger(), nullable=False),
    sa.Column('cost', sa.BigInteger(), nullable=False),
    sa.Column('input', sa.BigInteger(), nullable=False),
    sa.Column('cache_read', sa.BigInteger(), nullable=False),
    sa.Column('cache_write', sa.BigInteger(), nullable=False),
    sa.Column('cache_write_1h', sa.BigInteger(), nullable=False),
    sa.Column('audio_input', sa.BigInteger(), nullable=False),
    sa.Column('output', sa.BigInteger(), nullable=False),
    sa.Column('reasoning', sa.BigInteger(), nullable=False),
    sa.Column('audio_output', sa.BigInteger(), nullable=False),
    sa.Column('estimated', sa.Boolean(), nullable=False),
    sa.Column('stream', sa.Boolean(), nullable=False),
    sa.Column('final', sa.Boolean(), nullable=False),
    sa.Column('ttft', sa.BigInteger(), nullable=True),
    sa.Column('calls', sa.Text(), nullable=True),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_ledger')),
    sa.UniqueConstraint('request_id', 'attempt', name=op.f('uq_ledger_request_id_attempt')),
    sqlite_autoincrement=True
    )
    op.create_index('ix_ledger_key_started', 'ledger', ['key', 'started'], unique=False)
    op.create_index('ix_ledger_organization_started', 'ledger', ['organization', 'started'], unique=False)
    op.create_index('ix_ledger_started', 'ledger', ['started'], unique=False)
    op.create_index('ix_ledger_team_started', 'ledger', ['team', 'started'], unique=False)
    op.create_index('ix_ledger_user_started', 'ledger', ['user', 'started'], unique=False)

    op.create_table('ledger_daily',
    sa.Column('id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), autoincrement=True, nullable=False),
    sa.Column('day', sa.BigInteger(), nullable=False),
    sa.Column('organization', sa.Text(), nullable=False),
    sa.Column('team', sa.Text(), nullable=False),
    sa.Column('user', sa.Text(), nullable=False),
    sa.Column('key', sa.Text(), nullable=False),
    sa.Column('tags', sa.Text(), nullable=False),
    sa.Column('model', sa.Text(), nullable=False),
    sa.Column('deployment', sa.Text(), nullable=False),
    sa.Column('provider', sa.Text(), nullable=False),
    sa.Column('tier_served', sa.Text(), nullable=False),
    sa.Column('requests', sa.BigInteger(), nullable=False),
    sa.Column('attempts', sa.BigInteger(), nullable=False),
    sa.Column('errors', sa.BigInteger(), nullable=False),
    sa.Column('estimates', sa.BigInteger(), nullable=False),
    sa.Column('cost', sa.BigInteger(), nullable=False),
    sa.Column('duration', sa.BigInteger(), nullable=False),
    sa.Column('input', sa.BigInteger(), nullable=False),
    sa.Column('cache_read', sa.BigInteger(), nullable=False),
    sa.Column('cache_write', sa.BigInteger(), nullable=False),
    sa.Column('cache_write_1h', sa.BigInteger(), nullable=False),
    sa.Column('audio_input', sa.BigInteger(), nullable=False),
    sa.Column('output', sa.BigInteger(), nullable=False),
    sa.Column('reasoning', sa.BigInteger(), nullable=False),
    sa.Column('audio_output', sa.BigInteger(), nullable=False),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_ledger_daily')),
    sa.UniqueConstraint('day', 'organization', 'team', 'user', 'key', 'tags', 'model', 'deployment', 'provider', 'tier_served', name='uq_ledger_daily_dimensions')
    )
    op.create_index('ix_ledger_daily_key_day', 'ledger_daily', ['key', 'day'], unique=False)
    op.create_index('ix_ledger_daily_organization_day', 'ledger_daily', ['organization', 'day'], unique=False)
    op.create_index('ix_ledger_daily_team_day', 'ledger_daily', ['team', 'day'], unique=False)
    op.create_index('ix_ledger_daily_user_day', 'ledger_daily', ['user', 'day'], unique=False)

    op.create_table('ledger_rollup',
    sa.Column('id', sa.Integer(), autoincrement=False, nullable=False),
    sa.Column('through', sa.BigInteger(), nullable=False),
    sa.CheckConstraint('id = 1', name=op.f('ck_ledger_rollup_single')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_ledger_rollup'))
    )
    op.create_table('organizations',
    sa.Column('id', sa.String(length=128), nullable=False),
    sa.Column('settings', sa.Text(), nullable=False),
    sa.Column('blocked', sa.Boolean(), nullable=False),
    sa.Column('created', sa.Double(), nullable=False),
    sa.Column('updated', sa.Double(), nullable=False),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_organizations'))
    )
    op.create_table('stored_completions',
    sa.Column('seq', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), autoincrement=True, nullable=False),
    sa.Column('owner', sa.Text(), nullable=False),
    sa.Column('id', sa.String(length=128), nullable=False),
    sa.Column('created', sa.BigInteger(), nullable=False),
    sa.Column('model', sa.Text(), nullable=False),
    sa.Column('expires', sa.Double(), nullable=False),
    sa.Column('removed', sa.Boolean(), nullable=False),
    sa.Column('body', sa.LargeBinary(), nullable=True),
    sa.Column('messages', sa.LargeBinary(), nullable=True),
    sa.PrimaryKeyConstraint('seq', name=op.f('pk_stored_completions')),
    sa.UniqueConstraint('owner', 'id', name=op.f('uq_stored_completions_owner_id')),
    sqlite_autoincrement=True
    )
    op.create_index(op.f('ix_stored_completions_expires'), 'stored_completions', ['expires'], unique=False)
    op.create_index('ix_stored_completions_page', 'stored_completions', ['owner', 'created', 'seq'], unique=False)

    op.create_table('teams',
    sa.Column('id', sa.String(length=128), nullable=False),
    sa.Column('organization', sa.String(length=128), nullable=False),
    sa.Column('settings', sa.Text(), nullable=False),
    sa.Column('blocked', sa.Boolean(), nullable=False),
    sa.Column('created', sa.Double(), nullable=False),
    sa.Column('updated', sa.Double(), nullable=False),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_teams'))
    )
    op.create_index(op.f('ix_teams_organization'), 'teams', ['organization'], unique=False)

    op.create_table('users',
    sa.Column('id', sa.String(length=128), nullable=False),
    sa.Column('organization', sa.String(length=128), nullable=False),
    sa.Column('team', sa.String(length=128), nullable=True),
    sa.Column('settings', sa.Text(), nullable=False),
    sa.Column('blocked', sa.Boolean(), nullable=False),
    sa.Column('created', sa.Double(), nullable=False),
    sa.Column('updated', sa.Double(), nullable=False),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_users'))
    )
    op.create_index(op.f('ix_users_organization'), 'users', ['organization'], unique=False)
    op.create_index(op.f('ix_users_team'), 'users', ['team'], unique=False)

    op.create_table('key_digests',
    sa.Column('digest', sa.String(length=160), nullable=False),
    sa.Column('key_id', sa.String(length=64), nullable=False),
    sa.Column('expires', sa.Double(), nullable=True),
    sa.Column('created', sa.Double(), nullable=False),
    sa.ForeignKeyConstraint(['key_id'], ['keys.id'], name=op.f('fk_key_digests_key_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('digest', name=op.f('pk_key_digests'))
    )
    op.create_index(op.f('ix_key_digests_key_id'), 'key_digests', ['key_id'], unique=False)

    op.create_table('stored_metadata',
    sa.Column('seq', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('digest', sa.LargeBinary(length=32), nullable=False),
    sa.ForeignKeyConstraint(['seq'], ['stored_completions.seq'], name=op.f('fk_stored_metadata_seq'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('seq', 'digest', name=op.f('pk_stored_metadata'))
    )
    op.create_index('ix_stored_metadata_digest', 'stored_metadata', ['digest', 'seq'], unique=False)

    op.execute("INSERT INTO audit_head (id, seq, hash) VALUES (1, 0, '" + "0" * 64 + "')")
    op.execute("INSERT INTO ledger_rollup (id, through) VALUES (1, 0)")



def downgrade() -> None:
    op.drop_index('ix_stored_metadata_digest', table_name='stored_metadata')

    op.drop_table('stored_metadata')
    op.drop_index(op.f('ix_key_digests_key_id'), table_name='key_digests')

    op.drop_table('key_digests')
    op.drop_index(op.f('ix_users_team'), table_name='users')
    op.drop_index(op.f('ix_users_organization'), table_name='users')

    op.drop_table('users')
    op.drop_index(op.f('ix_teams_organization'), table_name='teams')

    op.drop_table('teams')
    op.drop_index('ix_stored_completions_page', table_name='stored_completions')
    op.drop_index(op.f('ix_stored_completions_expires'), table_name='stored_completions')

    op.drop_table('stored_completions')
    op.drop_table('organizations')
    op.drop_table('ledger_rollup')
    op.drop_index('ix_ledger_daily_user_day', table_name='ledger_daily')
    op.drop_index('ix_ledger_daily_team_day', table_name='ledger_daily')
    op.drop_index('ix_ledger_daily_organization_day', table_name='ledger_daily')
    op.drop_index('ix_ledger_daily_key_day', table_name='ledger_daily')

    op.drop_table('ledger_daily')
    op.drop_index('ix_ledger_user_started', table_name='ledger')
    op.drop_index('ix_ledger_team_started', table_name='ledger')
    op.drop_index('ix_ledger_started', table_name='ledger')
    op.drop_index('ix_ledger_organization_started', table_name='ledger')
    op.drop_index('ix_ledger_key_started', table_name='ledger')

    op.drop_table('ledger')
    op.drop_index(op.f('ix_keys_user'), table_name='keys')
    op.drop_index(op.f('ix_keys_team'), table_name='keys')

    op.drop_table('keys')
    op.drop_index(op.f('ix_changes_at'), table_name='changes')

    op.drop_table('changes')
    op.drop_table('audit_head')
    op.drop_index(op.f('ix_audit_target'), table_name='audit')

    op.drop_table('audit')
