#!/usr/bin/env bash
# Makes local stand-ins, under the same names, of the official images that the Dockerfile and
# docker-compose.yml name, for an engine that can reach no registry of images. An image that is there
# already, official or not, is left alone, and an official one is preferred where it can be pulled.
#
#   debian           debootstrap, minimal
#   rust             that, gcc and this machine's own Rust toolchain
#   prom/prometheus  that, and Debian's prometheus package
#   grafana/grafana  NOT Grafana, which no package registry carries: a server that answers
#                    /api/health once everything that Grafana would be provisioned with reads well
#
# How this machine reaches its package registries (mirror, certificates, proxies, pip and cargo
# settings) is copied into the stand-ins, so that the Dockerfile need not know of it.
#
#   stand_ins.sh            make what is missing, and print which are stand-ins
#   stand_ins.sh --remove   remove the stand-ins again
set -euo pipefail
cd "$(dirname "$0")/../.."

LABEL=pmpo.stand-in
declare -A IMAGES
while read -r image; do IMAGES[${image%%:*}]=$image; done < <(
    awk '$1 == "FROM" && $2 ~ /:/ && $2 !~ /^nvidia/ { print $2 }' deploy/docker/Dockerfile | sort -u
    awk '$1 == "image:" && $2 ~ /^(prom|grafana)\// { print $2 }' docker-compose.yml)
SCRATCH=$(mktemp -d)
trap 'rm -rf "$SCRATCH"' EXIT

say() { echo "stand-ins: $*"; }
exists() { docker image inspect "$1" >/dev/null 2>&1; }

remove() {
    local images
    images=$(docker images --quiet --filter "label=$LABEL" | sort -u)
    # shellcheck disable=SC2086  # one argument an image
    [ -z "$images" ] || docker rmi --force $images
}

# Files by which this machine reaches its registries, into the root file system $1.
registry_files() {
    install -d "$1/etc/ssl/certs" "$1/usr/local/share/ca-certificates" "$1/etc/apt/apt.conf.d"
    cp /etc/ssl/certs/ca-certificates.crt "$1/etc/ssl/certs/"
    find /usr/local/share/ca-certificates -name '*.crt' -exec cp {} "$1/usr/local/share/ca-certificates/" \;
    cat /etc/pip.conf ~/.config/pip/pip.conf ~/.pip/pip.conf > "$1/etc/pip.conf" 2>/dev/null || true
    grep -rlsi 'proxy' /etc/apt/apt.conf.d | xargs -r cp -t "$1/etc/apt/apt.conf.d" || true
}

# The same in the environment, as `--change` arguments of `docker import`.
registry_environment() {
    env | grep -iE '^(https?_proxy|no_proxy|ssl_cert_file|pip_(cert|index_url|extra_index_url|trusted_host|default_timeout)|cargo_(http|registries|registry|net)_[a-z_]*)=' |
        sed 's/^/--change=ENV /' || true
}

make_debian() {
    local root=$SCRATCH/debian suite=${1#*:} mirror changes
    suite=${suite%%-*}
    if ! command -v debootstrap >/dev/null; then
        apt-get -qq update
        apt-get -qq -o DPkg::Lock::Timeout=300 install --yes --no-install-recommends debootstrap >/dev/null
    fi
    mirror=$(apt-get indextargets --format '$(REPO_URI)' "Codename: $suite" 'Label: Debian' | sed -n 1p)
    debootstrap --variant=minbase --exclude=e2fsprogs "$suite" "$root" ${mirror:+"$mirror"} >"$SCRATCH/log" ||
        { tail -5 "$SCRATCH/log" >&2; exit 1; }
    registry_files "$root"
    rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/usr/share/{doc,man,info,locale}/*
    mapfile -t changes < <(registry_environment)
    tar --create --directory "$root" --numeric-owner . |
        docker import --change "LABEL $LABEL=true" --change 'CMD ["bash"]' "${changes[@]}" - "$1" >/dev/null
}

make_rust() {
    local context=$SCRATCH/rust
    install -d "$context/toolchain" "$context/cargo/bin"
    tar --create --directory "$(rustc --print sysroot)" \
        --exclude=share --exclude='lib/rustlib/src' --exclude='lib/rustlib/wasm*' . |
        tar --extract --directory "$context/toolchain"
    ln -s /usr/local/rustup/toolchains/here/bin/{cargo,rustc} "$context/cargo/bin/"
    cp ~/.cargo/config.toml "$context/cargo/" 2>/dev/null || true
    docker build --quiet --tag "$1" --file - "$context" >/dev/null <<EOF
FROM ${IMAGES[debian]}
RUN apt-get update && apt-get install --yes --no-install-recommends ca-certificates gcc libc6-dev && rm -rf /var/lib/apt/lists/*
COPY toolchain /usr/local/rustup/toolchains/here
COPY cargo /usr/local/cargo
ENV RUSTUP_HOME=/usr/local/rustup CARGO_HOME=/usr/local/cargo PATH=/usr/local/cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
EOF
}

make_prometheus() {
    docker build --quiet --tag "$1" - >/dev/null <<EOF
FROM ${IMAGES[debian]}
RUN apt-get update && apt-get install --yes --no-install-recommends prometheus busybox && rm -rf /var/lib/apt/lists/* \
 && ln -s /bin/busybox /usr/bin/wget && install -d -o 65534 -g 65534 /prometheus
USER 65534:65534
EXPOSE 9090
WORKDIR /prometheus
ENTRYPOINT ["/bin/prometheus"]
CMD ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"]
EOF
}

make_grafana() {
    docker build --quiet --tag "$1" --file - deploy/test >/dev/null <<EOF
FROM ${IMAGES[debian]}
RUN apt-get update && apt-get install --yes --no-install-recommends python3-yaml busybox && rm -rf /var/lib/apt/lists/* \
 && ln -s /bin/busybox /usr/bin/wget && install -d -o 472 -g 0 /var/lib/grafana
COPY grafana_stand_in.py /usr/local/bin/
USER 472:0
EXPOSE 3000
ENTRYPOINT ["python3", "/usr/local/bin/grafana_stand_in.py"]
EOF
}

if [ "${1:-}" = --remove ]; then
    remove
    exit
fi
for name in debian rust prom/prometheus grafana/grafana; do
    image=${IMAGES[$name]}
    exists "$image" && continue
    if [ -z "${unreachable:-}" ] && timeout 20 docker pull --quiet "$image" >/dev/null 2>&1; then continue; fi
    unreachable=yes
    if [ "$(id -u)" != 0 ]; then
        say "$image cannot be pulled, and making a stand-in takes root, for debootstrap" >&2
        exit 1
    fi
    say "making $image"
    start=$SECONDS
    "make_${name##*/}" "$image"
    say "made $image in $((SECONDS - start)) s"
done
for image in "${IMAGES[@]}"; do
    [ "$(docker image inspect --format "{{index .Config.Labels \"$LABEL\"}}" "$image")" = true ] &&
        say "$image is a stand-in ($(docker image inspect --format '{{.Size}}' "$image" | numfmt --to=si)B)"
done
true
