#!/bin/sh
# Runs nvcc as it is given. ptxas only remarks, and no option makes an error of it, that it has serialised wgmma instructions or
# put waits between them (C75xx): here it is one, since such a kernel is slow for a reason that nothing else shows.
output=$("$@" 2>&1)
status=$?
[ -z "$output" ] || printf '%s\n' "$output" >&2
case $output in
*"(C75"*) status=1 ;;
esac
if [ "$status" -ne 0 ]; then # make takes an object file that is there for a good one
  previous=
  for argument in "$@"; do
    [ "$previous" != -o ] || rm -f "$argument"
    previous=$argument
  done
fi
exit "$status"
