//! What an answer says of itself at its end.

use memchr::memmem;
use std::time::Duration;

/// The counters of one answer, as Ollama gives them; `None` where it gave none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Tokens of the prompt, those that had been computed before included.
    pub prompt_tokens: Option<u32>,
    /// Time for those that had not.
    pub prompt_time: Option<Duration>,
    /// Tokens of the answer.
    pub output_tokens: Option<u32>,
    /// Time for them.
    pub output_time: Option<Duration>,
    /// Time until the model was in memory, waiting for other loads included.
    pub load_time: Option<Duration>,
    /// Time for everything, waiting for a slot included.
    pub total_time: Option<Duration>,
}

impl Counters {
    /// Reads the end of an answer, of any API family. In JSON the quotes inside a text are escaped, so no text of a user or
    /// a model can look like one of these keys.
    pub fn read(tail: &[u8]) -> Self {
        let number = |key: &[u8]| -> Option<u64> {
            let after = tail
                .get(memmem::rfind(tail, key)? + key.len()..)?
                .trim_ascii_start();
            let digits = after
                .iter()
                .take_while(|byte| byte.is_ascii_digit())
                .count();
            std::str::from_utf8(after.get(..digits)?).ok()?.parse().ok()
        };
        let count = |native: &[u8], openai: &[u8], others: &[u8]| {
            let number = number(native)
                .or_else(|| number(openai))
                .or_else(|| number(others));
            u32::try_from(number?).ok()
        };
        let time = |key: &[u8]| number(key).map(Duration::from_nanos);
        Self {
            prompt_tokens: count(
                br#""prompt_eval_count":"#,
                br#""prompt_tokens":"#,
                br#""input_tokens":"#,
            ),
            prompt_time: time(br#""prompt_eval_duration":"#),
            output_tokens: count(
                br#""eval_count":"#,
                br#""completion_tokens":"#,
                br#""output_tokens":"#,
            ),
            output_time: time(br#""eval_duration":"#),
            load_time: time(br#""load_duration":"#),
            total_time: time(br#""total_duration":"#),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_each_family_says() {
        let native = br#"[1,2],"total_duration":5000000000,"load_duration":1000000,"prompt_eval_count":26,"prompt_eval_duration":130000000,"eval_count":298,"eval_duration":4709213000}"#;
        let read = Counters::read(native);
        assert_eq!(
            (read.prompt_tokens, read.output_tokens),
            (Some(26), Some(298))
        );
        assert_eq!(read.load_time, Some(Duration::from_millis(1)));
        assert_eq!(read.prompt_time, Some(Duration::from_millis(130)));
        assert_eq!(read.total_time, Some(Duration::from_secs(5)));
        let openai = br#""usage":{"prompt_tokens": 11,"completion_tokens":18,"total_tokens":29}}"#;
        let read = Counters::read(openai);
        assert_eq!(
            (read.prompt_tokens, read.output_tokens),
            (Some(11), Some(18))
        );
        let anthropic = br#""usage":{"input_tokens":7,"output_tokens":9}}"#;
        let read = Counters::read(anthropic);
        assert_eq!((read.prompt_tokens, read.output_tokens), (Some(7), Some(9)));
        assert_eq!(
            Counters::read(br#"{"content":"\"eval_count\":5"}"#),
            Counters::default()
        );
        assert_eq!(Counters::read(b""), Counters::default());
        assert_eq!(
            Counters::read(br#""eval_count":99999999999999999999"#),
            Counters::default()
        );
    }
}
