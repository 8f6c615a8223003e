/* penalties.h - what training would make of the weights: regularization and constraints.
 *
 * Reported, never applied: the forward pass of a loaded layer does not depend on them.
 * Source: tf_keras 2.21 regularizers.py, constraints.py. Threads: any. */
#ifndef ENGINE_PENALTIES_H
#define ENGINE_PENALTIES_H

#include <stdbool.h>

#include "engine/layer.h"
#include "engine/tensor.h"

/* L1: l1 * sum |x|; L2: l2 * sum x^2; L1L2: both. 0 for none and for kinds that the layer's
 * weights cannot have. */
double engine_penalties_loss(const struct engine_regularizer *regularizer,
                             const struct engine_tensor *weight);

/* true if the constraint would leave the weight as it is, to 1e-5 of its norm and 1e-7 (which
 * is what Keras adds to a norm before it divides). Norms are taken over the constraint's axes. */
bool engine_penalties_satisfied(const struct engine_constraint *constraint,
                                const struct engine_tensor *weight);

#endif
