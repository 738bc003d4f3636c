//! Teacher and student must mean the same by a token's id.

use bheval_data::digest::sha256_file;
use bheval_data::tokenizer::Tokenizer;

use super::{Error, TeacherFiles};

/// Refuses teachers whose ids mean other tokens than those of the student's text. A `tokenizer.json` of other bytes will do
/// where every id has the same piece: files differ in what is put around a text, too.
pub(super) fn check(files: &[TeacherFiles], student: &Tokenizer) -> Result<(), Error> {
    files.iter().try_for_each(|teacher| check_one(teacher, student))
}

fn check_one(teacher: &TeacherFiles, student: &Tokenizer) -> Result<(), Error> {
    let digest = |tokenizer: &Tokenizer| sha256_file(&tokenizer.folder().join("tokenizer.json")).ok();
    if digest(&teacher.tokenizer).is_some_and(|theirs| Some(theirs) == digest(student)) {
        return Ok(());
    }
    let unfit = |reason: String| {
        let advice = "; teacher and student need one tokenizer: build the corpus with the teacher's (`bheval corpus build \
                      --tokenizer DIR`), or take another teacher";
        Err(Error::unfit(&teacher.path, reason + advice))
    };
    let (theirs, ours) = (teacher.tokenizer.vocab(), student.vocab());
    let shared = theirs.min(ours);
    let differs = |id: &u32| teacher.tokenizer.piece(*id) != student.piece(*id);
    if let Some(id) = (0..shared).find(differs) {
        let piece = |tokenizer: &Tokenizer| tokenizer.piece(id).unwrap_or_default();
        return unfit(format!(
            "token {id} is {:?} to it and {:?} in the training text",
            piece(&teacher.tokenizer),
            piece(student)
        ));
    }
    if theirs != ours {
        return unfit(format!("its tokenizer has {theirs} entries, and that of the training text {ours}"));
    }
    Ok(())
}
