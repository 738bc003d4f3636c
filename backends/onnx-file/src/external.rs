//! Where a tensor's external data may lie: in a plain file below the model's folder, and nowhere else.

use std::path::{Component, Path, PathBuf};

use crate::graph::Tensor;
use crate::{Fault, fault};

/// What onnxruntime takes for an address in its own memory. No file of a user is called so.
const ADDRESS: &str = "_ORT_MEM_ADDR_";

/// The folder that a model's files must lie in, without links.
pub(crate) struct Root(PathBuf);

impl Root {
    /// The folder of the model `path`.
    pub(crate) fn of(path: &Path) -> Result<Self, Fault> {
        // A model that is itself a link is opened where the link lies: that is where a runtime looks for its data.
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let reason = |e: std::io::Error| format!("its folder can't be read: {e}");
        folder.canonicalize().map(Self).map_err(|e| Fault { path: path.to_path_buf(), reason: reason(e) })
    }

    /// The external file that holds a tensor, checked; none for a tensor within the model.
    pub(crate) fn file_of(&self, model: &Path, tensor: &Tensor) -> Result<Option<PathBuf>, Fault> {
        let wrong = |reason: String| fault(model, &tensor.name, &reason);
        let values = |key: &str| -> Vec<&str> {
            tensor.external.iter().filter(|(k, _)| k == key).map(|(_, value)| value.as_str()).collect()
        };
        let [location] = values("location")[..] else {
            return match (values("location").len(), tensor.is_external) {
                (0, false) if tensor.external.is_empty() => Ok(None),
                (0, _) => Err(wrong("has external data, but names no file".to_owned())),
                _ => Err(wrong("names several files for its external data".to_owned())),
            };
        };
        let file = self.inside(location).map_err(&wrong)?;
        let (offset, len) = (number(&values("offset")), number(&values("length")));
        let offset = offset.map_err(&wrong)?.unwrap_or(0);
        let len = len.map_err(&wrong)?.or(tensor.bytes().map_err(&wrong)?).unwrap_or(0);
        let present = file.metadata().map_or(0, |m| m.len());
        if offset.checked_add(len).is_none_or(|end| end > present) {
            return Err(wrong(format!(
                "needs {len} bytes from byte {offset} of {}, which has {present}; copy the external data again",
                file.display()
            )));
        }
        Ok(Some(file))
    }

    fn inside(&self, location: &str) -> Result<PathBuf, String> {
        let plain = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
        let refused = location.is_empty()
            || location.contains(['\\', ':', '\0'])
            || location.contains(ADDRESS)
            || !Path::new(location).components().all(plain);
        if refused {
            return Err(format!(
                "refers to external data at {location:?}, which is not inside the model's folder; it was not opened. Put \
                 the data beside the model and export it with a relative path"
            ));
        }
        let file = self.0.join(location).canonicalize().map_err(|e| {
            format!(
                "refers to external data at {location:?}, which can't be opened ({e}); copy that file beside the model"
            )
        })?;
        if !file.starts_with(&self.0) {
            return Err(format!(
                "refers to external data at {location:?}, a link that leads out of the model's folder; it was not \
                 opened. Copy the folder with `cp -rL`, which puts files in the place of links"
            ));
        }
        if file.is_file() {
            Ok(file)
        } else {
            Err(format!("refers to external data at {location:?}, which is no file"))
        }
    }
}

/// A number of bytes in decimal, if it is given.
fn number(values: &[&str]) -> Result<Option<u64>, String> {
    match values {
        [] => Ok(None),
        [text] => match text.parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(format!("has external data at {text:?}, which is no number of bytes")),
        },
        _ => Err("names several offsets or lengths for its external data".to_owned()),
    }
}
