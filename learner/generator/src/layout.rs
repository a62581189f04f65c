//! Groups of completions as items of a replay table: one row each, so that a group comes whole or not at all.

use bytes::Bytes;
use pmpo_language::{Completion, Group, LmConfig};
use pmpo_types::{ColumnBatch, ColumnSpec, DType, Signature};

/// The sizes that all groups of a run are laid out in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Tokens of a prompt at most.
    prompt: usize,
    /// Completions of a prompt.
    each: usize,
    /// Tokens of a completion at most.
    completion: usize,
}

impl Layout {
    /// That of a run.
    pub fn new(config: &LmConfig) -> Self {
        Self {
            prompt: config.max_prompt_length,
            each: config.num_generations,
            completion: config.max_completion_length,
        }
    }

    /// The columns. Lists are filled up with zeros behind their lengths.
    pub fn signature(&self) -> Signature {
        let Self {
            prompt,
            each,
            completion,
        } = *self;
        Signature {
            columns: vec![
                ColumnSpec::new("prompt", DType::U32, &[prompt]),
                ColumnSpec::new("prompt_length", DType::U32, &[]),
                ColumnSpec::new("completions", DType::U32, &[each, completion]),
                ColumnSpec::new("completion_lengths", DType::U32, &[each]),
                ColumnSpec::new("log_prob", DType::F32, &[each, completion]),
                ColumnSpec::new("finished", DType::Bool, &[each]),
                ColumnSpec::new("reward", DType::F32, &[each]),
                ColumnSpec::new("policy_version", DType::I64, &[]),
            ],
        }
    }

    /// A group as an item.
    ///
    /// # Errors
    /// It does not fit, or has a number that is not finite; in words.
    pub fn item(&self, group: &Group, version: u64) -> Result<ColumnBatch, String> {
        let most = group.completions.iter().map(|one| one.tokens.len()).max();
        if group.prompt.len() > self.prompt
            || group.completions.len() != self.each
            || group.rewards.len() != self.each
            || most > Some(self.completion)
        {
            return Err(format!("a group does not fit {self:?}"));
        }
        let tokens = |tokens: &[u32], room: usize| {
            let filled = tokens.iter().copied().chain(std::iter::repeat(0));
            filled
                .take(room)
                .flat_map(u32::to_le_bytes)
                .collect::<Vec<u8>>()
        };
        let all = &group.completions;
        let completions = all
            .iter()
            .flat_map(|one| tokens(&one.tokens, self.completion));
        let lengths = all
            .iter()
            .flat_map(|one| (one.tokens.len() as u32).to_le_bytes());
        let log_probs = all.iter().flat_map(|one| {
            let filled = one
                .log_probabilities
                .iter()
                .copied()
                .chain(std::iter::repeat(0.0));
            filled.take(self.completion).flat_map(f32::to_le_bytes)
        });
        let columns: Vec<Bytes> = vec![
            tokens(&group.prompt, self.prompt).into(),
            (group.prompt.len() as u32).to_le_bytes().to_vec().into(),
            completions.collect(),
            lengths.collect(),
            log_probs.collect(),
            all.iter().map(|one| u8::from(one.finished)).collect(),
            group
                .rewards
                .iter()
                .flat_map(|reward| reward.to_le_bytes())
                .collect(),
            (version as i64).to_le_bytes().to_vec().into(),
        ];
        ColumnBatch::new(&self.signature(), 1, columns).map_err(|error| error.to_string())
    }

    /// The group of an item, of tokens below `vocabulary`, and the version of the policy that drew it.
    ///
    /// # Errors
    /// Whoever wrote it does not keep to the layout; in words, what is wrong.
    pub fn group(&self, item: &ColumnBatch, vocabulary: usize) -> Result<(Group, u64), String> {
        let columns = item.columns();
        let fits = item.len() == 1 && {
            let specs = self.signature().columns;
            let sizes = specs.iter().map(ColumnSpec::item_bytes);
            sizes.eq(columns.iter().map(Bytes::len))
        };
        if !fits {
            return Err("other columns than the run's groups have".to_owned());
        }
        let tokens = |name: &str, bytes: &[u8], length: u32| {
            let room = bytes.len() / 4;
            if length == 0 || length as usize > room {
                return Err(format!("{name}: expected 1 to {room} tokens, got {length}"));
            }
            let tokens: Vec<u32> = words(bytes).take(length as usize).collect();
            match tokens.iter().find(|token| **token as usize >= vocabulary) {
                Some(token) => Err(format!(
                    "{name}: a token {token}; the model has {vocabulary}"
                )),
                None => Ok(tokens),
            }
        };
        let prompt_length = words(&columns[1]).next().unwrap_or(0);
        let prompt = tokens("prompt", &columns[0], prompt_length)?;
        let row = 4 * self.completion;
        let completions = words(&columns[3]).enumerate().map(|(i, length)| {
            let place = i * row..(i + 1) * row;
            let tokens = tokens("completions", &columns[2][place.clone()], length)?;
            let log_probabilities = words(&columns[4][place]).map(f32::from_bits);
            Ok::<_, String>(Completion {
                log_probabilities: log_probabilities.take(tokens.len()).collect(),
                tokens,
                finished: columns[5][i] == 1,
            })
        });
        let completions = completions.collect::<Result<_, _>>()?;
        let rewards: Vec<f32> = words(&columns[6]).map(f32::from_bits).collect();
        if let Some(reward) = rewards.iter().find(|reward| !reward.is_finite()) {
            return Err(format!("reward: {reward}; expected a finite one"));
        }
        let version = columns[7]
            .first_chunk()
            .map_or(0, |bytes| i64::from_le_bytes(*bytes));
        let version = u64::try_from(version).map_err(|_| format!("policy_version: {version}"))?;
        let group = Group {
            prompt,
            completions,
            rewards,
        };
        Ok((group, version))
    }
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u32> + '_ {
    let fours = bytes.as_chunks::<4>().0.iter();
    fours.map(|four| u32::from_le_bytes(*four))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYOUT: Layout = Layout {
        prompt: 3,
        each: 2,
        completion: 4,
    };

    fn group() -> Group {
        let completion = |tokens: &[u32], finished| Completion {
            tokens: tokens.to_vec(),
            log_probabilities: tokens.iter().map(|token| -(*token as f32)).collect(),
            finished,
        };
        Group {
            prompt: vec![5, 6],
            completions: vec![completion(&[7, 8, 9, 1], false), completion(&[2], true)],
            rewards: vec![-0.5, 1.0],
        }
    }

    #[test]
    fn a_group_comes_out_as_it_went_in() {
        let item = LAYOUT.item(&group(), 12).unwrap();
        assert_eq!(LAYOUT.group(&item, 10), Ok((group(), 12)));
    }

    #[test]
    fn what_a_stranger_writes_is_refused_in_words() {
        let refused = |column: usize, byte: usize, value: u8| {
            let item = LAYOUT.item(&group(), 12).unwrap();
            let mut columns: Vec<Vec<u8>> =
                item.columns().iter().map(|bytes| bytes.to_vec()).collect();
            columns[column][byte] = value;
            let columns = columns.into_iter().map(Bytes::from).collect();
            let item = ColumnBatch::of_known_values(&LAYOUT.signature(), 1, columns).unwrap();
            LAYOUT.group(&item, 10).unwrap_err()
        };
        assert_eq!(refused(1, 0, 4), "prompt: expected 1 to 3 tokens, got 4");
        assert_eq!(refused(1, 0, 0), "prompt: expected 1 to 3 tokens, got 0");
        assert_eq!(
            refused(3, 4, 5),
            "completions: expected 1 to 4 tokens, got 5"
        );
        assert_eq!(refused(0, 0, 10), "prompt: a token 10; the model has 10");
        assert_eq!(refused(7, 7, 0xff), "policy_version: -72057594037927924");
        assert!(
            LAYOUT
                .item(
                    &Group {
                        prompt: vec![1; 4],
                        ..group()
                    },
                    1
                )
                .is_err()
        );
        assert!(
            LAYOUT
                .item(
                    &Group {
                        rewards: vec![f32::NAN, 0.0],
                        ..group()
                    },
                    1
                )
                .is_err()
        );
    }
}
