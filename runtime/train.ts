// `uhd/train`: the steps of a compiled training graph. Data and checkpoints of `uhdc train` are not here.

export { Trainer } from "./train/trainer.ts";
export type { Recipe, StepInputs, StepOptions, StepResult, TrainerOptions, TrainingArtefact } from "./train/types.ts";
