/// x
#[derive(Debug)]
pub enum FetchFault {}
impl std::fmt::Display for FetchFault {
    fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {}
    }
}
