// The errors of training data and of checkpoints that training writes; those of a step are the trainer's.

import { UhdError } from "../errors.ts";

/** A data file that is no list of records, or a record that stops the training. */
export class TrainingDataError extends UhdError {
  override readonly name = "TrainingDataError";
  readonly code = "training-data";
}

/** A checkpoint of training that cannot be written, is damaged, or belongs to another training. */
export class TrainingCheckpointError extends UhdError {
  override readonly name = "TrainingCheckpointError";
  readonly code = "training-checkpoint";
}
