// Every operation.
#pragma once
#include "dropin/ops/attention.h"
#include "dropin/ops/conv.h"
#include "dropin/ops/elementwise.h"
#include "dropin/ops/fft.h"
#include "dropin/ops/fft_conv.h"
#include "dropin/ops/linalg.h"
#include "dropin/ops/loss.h"
#include "dropin/ops/matmul.h"
#include "dropin/ops/norm.h"
#include "dropin/ops/reduce.h"
#include "dropin/ops/shape.h"
