#!/bin/sh
# Takes out of an image's packages what no service of ours loads: sh deploy/slim.sh /opt/emend. 40 of pyarrow's 150 MB,
# 25 of botocore's (all of Amazon but S3), 30 of ONNX Runtime's (its library for C programs), tests of all.
set -eu
cd "$1"/lib/python3*/site-packages
if [ -d botocore ]; then
    find botocore/data -mindepth 1 -maxdepth 1 -type d ! -name s3 ! -name 'sso*' ! -name sts -exec rm -r {} +
    "$1/bin/python" -c 'import boto3; boto3.client("s3", region_name="us-east-1")'
fi
if [ -d pyarrow ]; then
    rm -rf pyarrow/include pyarrow/libarrow_flight* pyarrow/libarrow_python_flight* pyarrow/_flight*
    # Three copies of one file, which are links to it outside a wheel.
    for library in pyarrow/*.so.*.*.*; do
        [ ! -e "${library%.*.*}" ] || ln -f "$library" "${library%.*.*}"
        [ ! -e "${library%.*.*.*}" ] || ln -f "$library" "${library%.*.*.*}"
    done
fi
if [ -d onnxruntime ]; then
    rm -rf onnxruntime/capi/libonnxruntime.so.* onnxruntime/transformers onnxruntime/tools \
        onnxruntime/quantization onnxruntime/datasets
fi
for package in matplotlib numpy pandas pyarrow scipy sklearn; do
    [ ! -d "$package" ] || find "$package" -type d -name tests -prune -exec rm -r {} +
done
for module in numpy onnxruntime pyarrow.parquet pyarrow.compute pyarrow.dataset s3fs mlflow.server; do
    [ ! -e "${module%%.*}" ] || "$1/bin/python" -c "import $module"
done
