// What dropin bench runs for a component, made from its registry line alone: options, inputs and
// calls at a tiny size, one for the caches, one for memory.
#pragma once
#include <memory>
#include <string>

#include "dropin/registry/registry.h"
#include "evidence/timing.h"

namespace dropin::evidence {

struct Case {
  std::string size;  ///< "L:1024"
  Json options;
  Shape x;  ///< sizes of the input; empty for functions with several
  double flops = 0,
         bytes = 0;  ///< of a forward call: arithmetic (0: not known), and what must move at least
  double both_flops = 0, both_bytes = 0;
  double kept_bytes = 0;                 ///< parameters, or an optimizer's state
  const char* forward_name = "forward";  ///< "forward", "step" or "call"
  Call forward, both;                    ///< both: forward and backward; null where there is none
  // What another library needs to do the same (modules and optimizers).
  std::shared_ptr<Module> module;  ///< the one of `both`, with the same parameters as `forward`'s
  Tensor input, gradient;  ///< x, and the gradient that `both` sends back; an optimizer's parameter
                           ///< and its gradient
};

/// How many sizes a component has.
int sizes_of(const ComponentInfo& c);
/// What the rows of size i will be called ("L:1024"), where that is known before one is made; else
/// empty.
std::string label_of(const ComponentInfo& c, int i);
/// Size number i. `standard`: take the options that swap() would give in its place; null: the
/// family's. OptionError when it cannot be made from its line, in words.
Case make_case(const ComponentInfo& c, int i, const ComponentInfo* standard, const Json& changes,
               const Device& device);
/// The member it is held against: what it replaces, or the family's first; null for that one and
/// for functions that replace nothing.
const ComponentInfo* standard_of(const ComponentInfo& c);

}  // namespace dropin::evidence
