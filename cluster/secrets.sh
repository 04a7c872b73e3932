#!/bin/bash
# Writes what `docker compose` in this folder needs to .env, for its owner alone: ./secrets.sh [PUBLIC NAME [MAIL]]
# A file that exists stays as it is. Copy it somewhere safe: without SOLDIOM_ENCRYPTION_KEY nothing stored can be read.
set -euo pipefail
cd "$(dirname "$0")"
umask 077
if [ -e .env ]; then
  echo "cluster/.env exists and stays as it is" >&2
  exit
fi
secret() { python3 -c 'import secrets; print(secrets.token_hex(32))'; }
cat > .env <<END
EDGE_DOMAIN=${1:-localhost}
EDGE_TLS=${2:-internal}
POSTGRES_PASSWORD=$(secret)
MINIO_PASSWORD=$(secret)
RAY_AUTH_TOKEN=$(secret)
GRAFANA_PASSWORD=$(secret)
SOLDIOM_ENCRYPTION_KEY=$(secret)
END
echo "cluster/.env holds the name, the passwords and the key"
