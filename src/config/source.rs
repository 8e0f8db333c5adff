//! Where the configuration comes from: a file, and flags and variables laid over it. Read at start and at each reload.

use super::Settings;
use super::draft::Draft;
use super::fault::{Fault, Faults};
use super::flag::Flag;
use super::quantity::size_text;
use crate::balance;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::{env, fmt};
use thiserror::Error;
use xxhash_rust::xxh3::xxh3_64;

/// Largest file that is read.
const FILE_BYTES: u64 = 1 << 20;
const FILE_HERE: &str = "llamero.toml";
const FILE_IN_FOLDER: &str = "llamero/config.toml";

/// What the command line and the environment say of the configuration. Flags beat the environment, both beat the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
pub struct Overrides {
    /// Configuration file [default: the first of ./llamero.toml, $XDG_CONFIG_HOME/llamero/config.toml and
    /// /etc/llamero/config.toml]
    #[arg(long, value_name = "FILE", env = "LLAMERO_CONFIG", value_parser = any_path())]
    pub config: Option<PathBuf>,

    /// Where clients are answered: IP:PORT, or :PORT for every interface [default: 127.0.0.1:11434]
    ///
    /// May be given several times, or as a list split by `,` or `;`.
    #[arg(long, value_name = "ADDR", env = "LLAMERO_LISTEN")]
    pub listen: Vec<String>,

    /// Where operators are answered: status and health [default: 127.0.0.1:11436]
    #[arg(long, value_name = "ADDR", env = "LLAMERO_ADMIN")]
    pub admin: Option<String>,

    /// An Ollama node, written like OLLAMA_HOST: gpu1, gpu1:11434, http://10.0.0.7:11434
    ///
    /// May be given several times, or as a list split by `,` or `;`. Without a name it is called by its host and port.
    /// With these, the backends of a file are not used.
    #[arg(long = "backend", value_name = "[NAME=]HOST", env = "LLAMERO_BACKEND")]
    pub backends: Vec<String>,

    /// How a backend is chosen
    #[arg(long, value_name = "NAME", env = "LLAMERO_STRATEGY", long_help = strategy_help())]
    pub strategy: Option<String>,

    /// How log lines look: auto, text or json [default: auto, which is text on a terminal and JSON elsewhere]
    #[arg(long, value_name = "FORMAT", env = "LLAMERO_LOG_FORMAT")]
    pub log_format: Option<String>,

    /// What is logged: off, error, warn, info, debug or trace [default: info]
    #[arg(long, value_name = "LEVEL", env = "LLAMERO_LOG_LEVEL")]
    pub log_level: Option<String>,
}

/// Any path, even an empty one: variables that are set to nothing count as not set.
fn any_path() -> impl clap::builder::TypedValueParser<Value = PathBuf> {
    use clap::builder::TypedValueParser;
    clap::builder::OsStringValueParser::new().map(PathBuf::from)
}

/// The text of `--strategy`, with every name.
fn strategy_help() -> String {
    let mut text = "How a backend is chosen:".to_owned();
    for entry in balance::ALL {
        text.extend(["\n  ", entry.name, ": ", entry.summary]);
    }
    text
}

impl Overrides {
    fn apply(&self, draft: &mut Draft) {
        let flag = |name, variable, values| Flag {
            name,
            variable,
            separators: &[],
            values,
        };
        let list = |name, variable, values| Flag {
            separators: &[',', ';'],
            ..flag(name, variable, values)
        };
        draft.backend_flag(&list("backend", "LLAMERO_BACKEND", &self.backends));
        let (listen, admin) = (&self.listen, self.admin.as_slice());
        draft.flag("listen", &list("listen", "LLAMERO_LISTEN", listen));
        draft.flag("admin.listen", &flag("admin", "LLAMERO_ADMIN", admin));
        let strategy = self.strategy.as_slice();
        draft.flag("strategy", &flag("strategy", "LLAMERO_STRATEGY", strategy));
        let (format, level) = (self.log_format.as_slice(), self.log_level.as_slice());
        draft.flag(
            "log.format",
            &flag("log-format", "LLAMERO_LOG_FORMAT", format),
        );
        draft.flag("log.level", &flag("log-level", "LLAMERO_LOG_LEVEL", level));
    }
}

/// The places where a configuration file is looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Environment {
    /// The working directory.
    pub here: PathBuf,
    /// The user's folder of configurations, if there is one.
    pub user: Option<PathBuf>,
    /// The machine's folder of configurations.
    pub system: PathBuf,
}

impl Environment {
    /// That of this process.
    pub fn of_process() -> Self {
        let folder = |name| {
            env::var_os(name)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
        };
        let user = folder("XDG_CONFIG_HOME").or_else(|| Some(folder("HOME")?.join(".config")));
        Self {
            here: PathBuf::from("."),
            user,
            system: PathBuf::from("/etc"),
        }
    }

    /// The first file that there is. One that cannot be read counts: to pass over it would hide a mistake.
    fn find(&self) -> Option<PathBuf> {
        let user = self.user.as_ref().map(|folder| folder.join(FILE_IN_FOLDER));
        [
            Some(self.here.join(FILE_HERE)),
            user,
            Some(self.system.join(FILE_IN_FOLDER)),
        ]
        .into_iter()
        .flatten()
        .find(|path| match fs::symlink_metadata(path) {
            Ok(_) => true,
            Err(error) => !matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ),
        })
    }
}

/// Where the configuration comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    path: Option<PathBuf>,
    overrides: Overrides,
}

impl Source {
    /// The file named by the overrides, or else the first that there is.
    pub fn new(overrides: Overrides, environment: &Environment) -> Self {
        let named = overrides
            .config
            .clone()
            .filter(|path| !path.as_os_str().is_empty());
        Self {
            path: named.or_else(|| environment.find()),
            overrides,
        }
    }

    /// The file, if there is one.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Reads the file again; blocking, at most a mebibyte. Without a file the text is empty.
    ///
    /// # Errors
    /// The file cannot be read, or is no text.
    pub fn content(&self) -> Result<Content, ConfigError> {
        let text = match &self.path {
            Some(path) => read(path)?,
            None => String::new(),
        };
        Ok(Content {
            hash: ContentHash::of(&text),
            text,
        })
    }

    /// What a text means under the overrides.
    ///
    /// # Errors
    /// Everything that is wrong with the text and the overrides.
    pub fn parse(&self, content: &Content) -> Result<Settings, Faults> {
        let mut draft = Draft::new();
        if let Some(path) = &self.path {
            draft.file(&content.text, &path.to_string_lossy());
        }
        self.overrides.apply(&mut draft);
        draft.finish()
    }

    /// Reads the file again and says what it means under the overrides; blocking.
    ///
    /// # Errors
    /// The file cannot be read, or something is wrong with it or the overrides.
    pub fn read(&self) -> Result<(Settings, ContentHash), ConfigError> {
        let content = self.content()?;
        let settings = self.parse(&content)?;
        Ok((settings, content.hash))
    }
}

/// What a file said at one time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    text: String,
    /// Tells one content from another.
    pub hash: ContentHash,
}

/// Tells one content of the file from another; shown as 16 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ContentHash(u64);

impl ContentHash {
    /// That of a text.
    pub fn of(text: &str) -> Self {
        Self(xxh3_64(text.as_bytes()))
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Why there is no configuration.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}: {source}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is a folder, a pipe or a device.
    #[error("the configuration {} must be a file, since it is read again at each reload", .0.display())]
    NoFile(PathBuf),
    /// It is no configuration.
    #[error("the configuration {} is larger than {}", .0.display(), size_text(FILE_BYTES))]
    TooLarge(PathBuf),
    /// It is no UTF-8.
    #[error("the configuration {} is not UTF-8 text: byte {at} is wrong; save it as UTF-8", .path.display())]
    NoText {
        /// The file.
        path: PathBuf,
        /// The position of the first wrong byte, from 0.
        at: usize,
    },
    /// It says something wrong.
    #[error(transparent)]
    Faults(#[from] Faults),
}

impl ConfigError {
    /// Everything that is wrong, for people; coloured for a terminal if asked.
    pub fn render(&self, color: bool) -> String {
        match self {
            Self::Faults(faults) => faults.render(color),
            Self::Unreadable { .. } | Self::NoFile(_) | Self::TooLarge(_) | Self::NoText { .. } => {
                Fault::new(self.to_string()).render(color)
            }
        }
    }
}

fn read(path: &Path) -> Result<String, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable {
        path: path.to_owned(),
        source,
    };
    // Asked before opening, since opening a pipe waits for its writer.
    if !fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(ConfigError::NoFile(path.to_owned()));
    }
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(FILE_BYTES + 1).read_to_end(&mut bytes))
        .map_err(unreadable)?;
    if bytes.len() as u64 > FILE_BYTES {
        return Err(ConfigError::TooLarge(path.to_owned()));
    }
    String::from_utf8(bytes).map_err(|error| ConfigError::NoText {
        path: path.to_owned(),
        at: error.utf8_error().valid_up_to(),
    })
}
