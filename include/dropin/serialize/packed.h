// Packed weights of other libraries, tensor by tensor: what load_state() unpacks by name.
#pragma once
#include <string>

#include "dropin/ops/bitlinear.h"
#include "dropin/serialize/state_file.h"

namespace dropin {

/// BitNet's packed ternary rows as transformers (5.24.0) keeps them: U8 [R, C], bits 2i of byte
/// [r, c] are row r + i R plus 1. Int8 [rows, C] of -1, 0, 1 (code 3 is 2); rows: how many were
/// packed, 0 for all 4 R (those that filled up read -1). ShapeError, DTypeError.
Tensor unpack_ternary(const Tensor& packed, int64_t rows = 0);
/// The reverse: [rows, C] of -1, 0, 1 in any dtype, to U8 [ceil(rows / 4), C]; codes of the rows
/// that fill up are 0, as theirs. Error naming another value.
Tensor pack_ternary(const Tensor& ternary);

/// BitNet's packed rows and their scale as BitLinear keeps them, and back. divides: the scale of
/// the file divides ("bitlinear"), otherwise it multiplies ("autobitlinear"). The scale is a tensor
/// of one number. ShapeError, DTypeError; OptionError for a scale that is not finite and positive.
BitPackedWeight bitnet_to_bitlinear(const Tensor& packed, const Tensor& scale, bool divides);
struct BitNetWeight {
  Tensor packed, scale;
};
BitNetWeight bitlinear_to_bitnet(const BitPackedWeight& weight, int64_t in_features, bool divides);

/// Weights of 4-bit blocks as MXLinear keeps them, for its load_state_dict(): of a file opened with
/// unpack = false, gpt-oss' NAME_blocks and NAME_scales of one expert (weight_format
/// "MXFP4_E2M1"), or compressed-tensors' NAME_packed, NAME_scale and NAME_global_scale
/// (weight_format "NVFP4"); NAME_bias or NAME's bias beside it. FileError naming what is missing;
/// ShapeError for an expert that is not there; OptionError for a scale byte of 255, which is 2^128
/// there and NaN here.
StateDict mx_linear_state(const StateFile& parts, const std::string& name, int64_t expert = 0);

/// gpt-oss' MXFP4: blocks U8 [.., rows, G, 16] (32 codes of float4_e2m1fn, low nibble first) and
/// scales U8 [.., rows, G]: code 2^(scale - 127), float32, the last two axes swapped: [.., 32 G,
/// rows]. Scale 255 is 2^128, not NaN: what is too large is inf. ShapeError, DTypeError.
Tensor unpack_mxfp4(const Tensor& blocks, const Tensor& scales);

/// Integers of `bits` (1 to 8) from int32 words, as compressed-tensors packs rows: element i of a
/// row is at bit i bits of the row's little-endian stream, plus 2^(bits - 1). I32 [rows, words] to
/// Int8 [rows, columns]. ShapeError when a row's words are not ceil(columns bits / 32); DTypeError.
Tensor unpack_int32(const Tensor& packed, int bits, int64_t columns);
/// The reverse. Error naming a value outside [-2^(bits - 1), 2^(bits - 1)).
Tensor pack_int32(const Tensor& values, int bits);

}  // namespace dropin
