#!/usr/bin/env bash
# LibTorch (torch 2.15.0): torch::optim::StepLR beside torch.optim.lr_scheduler.StepLR.
# One would guess: the same schedule, so that a training loop moved from Python to C++ takes the same steps.
# What happens: the first step() in C++ changes nothing. With step_size 1 and gamma 0.5 the rates of four epochs are 1, 0.5, 0.25,
# 0.125 in Python and 1, 1, 0.5, 0.25 in C++: every decay comes one epoch late.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q torch==2.15.0
cd "$folder"
cat > rates.cpp <<'CPP'
#include <torch/torch.h>

#include <cstdio>

int main() {
  const torch::Tensor w = torch::ones({1}, torch::requires_grad());
  torch::optim::SGD optimizer({w}, torch::optim::SGDOptions(1.0));
  torch::optim::StepLR schedule(optimizer, 1, 0.5);
  for (int epoch = 0; epoch < 4; ++epoch) {
    std::printf("%g ", optimizer.param_groups()[0].options().get_lr());
    optimizer.step();
    schedule.step();
  }
}
CPP
torch=$("$folder/env/bin/python" -c 'import os, torch; print(os.path.dirname(torch.__file__))')
g++ -std=c++20 -O0 rates.cpp -o rates -isystem "$torch/include" -isystem "$torch/include/torch/csrc/api/include" -L"$torch/lib" \
  -Wl,-rpath,"$torch/lib" -Wl,--unresolved-symbols=ignore-in-shared-libs -ltorch -ltorch_cpu -lc10
cpp=$(./rates)
python=$("$folder/env/bin/python" - <<'PYTHON'
import torch

w = torch.ones(1, requires_grad=True)
optimizer = torch.optim.SGD([w], lr=1.0)
schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
for epoch in range(4):
    print(f"{optimizer.param_groups[0]['lr']:g}", end=" ")
    optimizer.step()
    schedule.step()
PYTHON
)
echo "Python: $python"
echo "C++:    $cpp"
[ "${python% }" = "1 0.5 0.25 0.125" ]
[ "${cpp% }" = "1 1 0.5 0.25" ]
