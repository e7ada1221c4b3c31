#!/bin/sh
# Takes out of an image's packages what no service of ours loads: sh deploy/slim.sh /opt/emend. 40 MB of pyarrow's 150.
set -eu
arrow=$(echo "$1"/lib/python3*/site-packages/pyarrow)
rm -rf "$arrow"/include "$arrow"/tests "$arrow"/libarrow_flight* "$arrow"/libarrow_python_flight* "$arrow"/_flight*
"$1/bin/python" -c 'import pyarrow.parquet, pyarrow.compute, pyarrow.dataset'
