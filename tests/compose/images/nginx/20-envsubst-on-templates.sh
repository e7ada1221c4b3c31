#!/bin/sh
# /etc/nginx/templates/**/NAME.template becomes /etc/nginx/conf.d/**/NAME, defined variables filled in (and no others,
# so nginx's own $host and the like stay). NGINX_ENVSUBST_FILTER: a regular expression for their names.
set -e
templates="${NGINX_ENVSUBST_TEMPLATE_DIR:-/etc/nginx/templates}"
suffix="${NGINX_ENVSUBST_TEMPLATE_SUFFIX:-.template}"
output="${NGINX_ENVSUBST_OUTPUT_DIR:-/etc/nginx/conf.d}"
[ -d "$templates" ] || exit 0
if [ ! -w "$output" ]; then
    echo "20-envsubst-on-templates.sh: ERROR: $templates exists, but $output is not writable"
    exit 0
fi
defined=$(env | sed -n 's/^\([A-Za-z_][A-Za-z0-9_]*\)=.*/\1/p' | grep -E "${NGINX_ENVSUBST_FILTER:-.}" | sed 's/.*/${&}/' | tr '\n' ' ')
find "$templates" -follow -type f -name "*$suffix" | while read -r template; do
    target="$output/${template#"$templates"/}"
    target="${target%"$suffix"}"
    mkdir -p "$(dirname "$target")"
    envsubst "$defined" < "$template" > "$target"
done
