#!/bin/bash
# Makes the secrets that the roles mount, from `pmpo certs`:
#
#   deploy/k8s/certs.sh [--dry-run]
#
# CERTS (default: certs) is the folder where the authority's key stays, which no pod needs; SHARDS
# (default: 2) is the number of replay shards. Called again it renews what is near its end; the roles take
# up the new files by themselves.
set -euo pipefail
umask 077

certs=${CERTS:-certs}
case ${1:-} in
  "") apply=(kubectl apply --filename=-) ;;
  --dry-run) apply=(cat) ;;
  *)
    echo "certs.sh: expected --dry-run or nothing, got $1" >&2
    exit 2
    ;;
esac

hosts=()
for ((shard = 0; shard < ${SHARDS:-2}; shard++)); do
  hosts+=(--host "replay-$shard.replay")
done
"${PMPO:-target/release/pmpo}" certs --out "$certs" "${hosts[@]}" >&2
for role in replay learner actor evaluator; do
  kubectl create secret generic "pmpo-$role" --namespace=pmpo --dry-run=client --output=yaml \
    --from-file=tls.crt="$certs/$role.pem" \
    --from-file=tls.key="$certs/$role-key.pem" \
    --from-file=ca.crt="$certs/ca.pem"
  echo ---
done | "${apply[@]}"
