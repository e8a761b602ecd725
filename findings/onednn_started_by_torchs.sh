#!/usr/bin/env bash
# Debian 12's oneDNN (libdnnl2 2.6.3) in one program with LibTorch (torch 2.15.0, which holds a oneDNN of its own).
# One would guess: they do not meet, as libtorch_cpu.so exports no function of oneDNN's, and the order of linking does not matter.
# What happens: linked before libdnnl, LibTorch breaks it: dnnl_sgemm() of two 8 x 8 matrices answers 3, dnnl_unimplemented. The
# start-up of a product is under std::call_once, whose invoker (a function of the standard library's header, inlined in both) is a
# weak symbol with the same name in both; the loader gives libdnnl the one of LibTorch, which starts the other library's code.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q torch==2.15.0
cd "$folder"
apt-get download -q libdnnl2=2.6.3-1 libdnnl-dev=2.6.3-1 >/dev/null
for package in ./*.deb; do dpkg -x "$package" debian; done
cat > product.cpp <<'CPP'
#include <cstdio>
#include <dnnl.h>

int main() {
  float a[64], c[64] = {};
  for (float& v : a) v = 1;
  const dnnl_status_t status = dnnl_sgemm('N', 'N', 8, 8, 8, 1.0f, a, 8, a, 8, 0.0f, c, 8);
  std::printf("%d %g", static_cast<int>(status), c[0]);
}
CPP
torch=$("$folder/env/bin/python" -c 'import os, torch; print(os.path.dirname(torch.__file__))')/lib
debian=$folder/debian/usr/lib/x86_64-linux-gnu
onednn="-L$debian -Wl,-rpath,$debian -ldnnl"
libtorch="-L$torch -Wl,-rpath,$torch -Wl,--unresolved-symbols=ignore-in-shared-libs -ltorch_cpu"
build="g++ -O0 product.cpp -Idebian/usr/include -Wl,--no-as-needed"
$build $onednn $libtorch -o onednn_first
$build $libtorch $onednn -o libtorch_first
first=$(./onednn_first)
second=$(./libtorch_first)
echo "oneDNN linked first:   status and c[0] $first"
echo "LibTorch linked first: status and c[0] $second"
[ "$first" = "0 8" ]
[ "$second" = "3 0" ]
