#!/bin/sh
# sh predict.sh PHOTOGRAPH [URL]
exec curl --silent --show-error --fail-with-body \
  -F "image=@$1" "${2:-http://localhost:8000}/predict"
