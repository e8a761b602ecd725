#include "dropin/sequence/contract.h"

namespace dropin {

Box<SequenceState> SequenceMixer::init_state(std::int64_t, std::int64_t) {
  fail<OptionError>({type(), ": these options have no step(); a decoding member is causal"});
}
Tensor SequenceMixer::step(const Tensor&, SequenceState&) {
  fail<OptionError>({type(), ": these options have no step(); a decoding member is causal"});
}

NamedTensors SequenceMixer::call(const NamedTensors& in) {
  SequenceArgs args;
  args.key_padding_mask = in.find("key_padding_mask");
  args.attn_mask = in.find("attn_mask");
  args.global_attention_mask = in.find("global_attention_mask");
  return {{"y", forward(in.get("x", type()), args)}};
}

}  // namespace dropin
